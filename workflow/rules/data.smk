# REQUIRED INPUTS: a data set under the data root (none for the embedded one), word vectors
# OUTPUTS: {dataset}/lists/train.csv, {dataset}/lists/fold{fold}/{train,test}.csv, {dataset}/lists/fold{fold}/shot{shot}/seed{seed}.csv, {dataset}/embeddings.csv


rule draw_shapes:
    input:
        settings=lambda w: plan.slice_path("shapes", w.dataset),
    output:
        f"{ROOT}/data/{{dataset}}/shapes.json",
    log:
        f"{LOGS}/{{dataset}}/draw_shapes.log",
    conda:
        "../../environment.yml"
    threads: 2
    params:
        code=plan.code("shapes"),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet shapes \
            --config {input.settings:q} \
            --workers {threads} \
            --out {output:q} \
            >{log:q} 2>&1
        """


for dataset in plan.datasets:

    rule:
        name:
            f"make_folds_{dataset}"
        input:
            settings=plan.slice_path("folds", dataset),
            fetched=plan.supplies.fetched(dataset, "data"),
            drawn=[f"{ROOT}/data/{dataset}/shapes.json"] if plan.settings(dataset).data.source == "shapes" else [],
        output:
            index=f"{ROOT}/{dataset}/lists/index.csv",
            train=f"{ROOT}/{dataset}/lists/train.csv",
            lists=expand(
                f"{ROOT}/{dataset}/lists/fold{{fold}}/{{split}}.csv",
                fold=plan.folds(dataset),
                split=["train", "test"],
            ),
        log:
            f"{LOGS}/{dataset}/make_folds.log",
        conda:
            "../../environment.yml"
        threads: 2
        params:
            code=plan.code("folds"),
            out=subpath(output[0], parent=True),
        shell:
            """
            "$SYMNET_PYTHON" -m symnet folds \
                --config {input.settings:q} \
                --workers {threads} \
                --out {params.out:q} \
                >{log:q} 2>&1
            """


rule count_images:
    input:
        settings=lambda w: plan.slice_path("counts", w.dataset),
        index=f"{ROOT}/{{dataset}}/lists/index.csv",
        lists=lambda w: expand(f"{ROOT}/{w.dataset}/lists/fold{{fold}}/{{split}}.csv", fold=plan.folds(w.dataset), split=["train", "test"]),
    output:
        table=f"{ROOT}/{{dataset}}/counts.csv",
        text=f"{ROOT}/{{dataset}}/counts.txt",
        pages=[
            report(
                f"{ROOT}/{{dataset}}/{name}.html",
                caption="../report/counts.rst",
                category="Data",
                labels={"data set": "{dataset}", "counts": of},
            )
            for name, of in (("counts", "fold lists"), ("counts-classes", "images of a class"))
        ],
    log:
        f"{LOGS}/{{dataset}}/count_images.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("counts"),
        published=plan.published_mark(),
        lists=subpath(input.index, parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet counts \
            --config {input.settings:q} \
            --dataset {wildcards.dataset:q} \
            --lists {params.lists:q} \
            --out {output.table:q} \
            >{log:q} 2>&1
        """


# no job has it as input, since it changes no pixel: what it does not hold yet is read from the files
rule make_store:
    input:
        settings=lambda w: plan.slice_path("store", w.dataset),
        index=f"{ROOT}/{{dataset}}/lists/index.csv",
    output:
        f"{ROOT}/{{dataset}}/store.json",
    log:
        f"{LOGS}/{{dataset}}/make_store.log",
    priority: 1
    conda:
        "../../environment.yml"
    threads: 8
    params:
        code=plan.code("store"),
        index=subpath(input.index, parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet store \
            --config {input.settings:q} \
            --index {params.index:q} \
            --workers {threads} \
            --out {output:q} \
            >{log:q} 2>&1
        """


rule make_episodes:
    input:
        settings=lambda w: plan.slice_path("episodes", w.dataset, w.fold),
        lists=f"{LISTS}/test.csv",
    output:
        [f"{LISTS}/shot{{shot}}/seed{seed}.csv" for seed in plan.seeds],
    log:
        f"{LOGS}/{{dataset}}/fold{{fold}}/make_episodes-shot{{shot}}.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("episodes"),
        seeds=",".join(map(str, plan.seeds)),
        out=subpath(output[0], parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet episodes \
            --config {input.settings:q} \
            --list {input.lists:q} \
            --shot {wildcards.shot} \
            --seeds {params.seeds} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """


rule make_embeddings:
    input:
        settings=lambda w: plan.slice_path("embeddings", w.dataset),
        fetched=lambda w: plan.supplies.fetched(w.dataset, "vectors"),
    output:
        f"{ROOT}/{{dataset}}/embeddings.csv",
    log:
        f"{LOGS}/{{dataset}}/make_embeddings.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("embeddings"),
        vectors=lambda w: plan.supplies.vectors_mark(w.dataset),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet embeddings \
            --config {input.settings:q} \
            --out {output:q} \
            >{log:q} 2>&1
        """
