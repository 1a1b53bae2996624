# REQUIRED INPUTS: the metric files of every cell, and its models
# OUTPUTS: {dataset}/{backbone}/fold{fold}/gallery/shot{shot}/episodes.safetensors; tables/main.csv, tables/main.tex and their like; figures/;
#   tracking.json, and the runs in the MLflow store


rule make_gallery:
    input:
        lambda w: plan.figures.inputs(w.dataset, w.fold, w.shot),
        lists=f"{LISTS}/test.csv",
    output:
        f"{FOLD}/gallery/shot{{shot}}/episodes.safetensors",
    log:
        f"{LOGS}/{{dataset}}/{{backbone}}/fold{{fold}}/make_gallery-shot{{shot}}.log",
    conda:
        "../../environment.yml"
    threads: plan.experiment.threads
    params:
        code=plan.code("gallery"),
        choice=lambda w: plan.figures.options(w.dataset, w.fold),
        store=lambda w, input: plan.store_option(w.dataset, input),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet gallery \
            --dataset {wildcards.dataset:q} \
            --backbone {wildcards.backbone:q} \
            --fold {wildcards.fold} \
            --shot {wildcards.shot} \
            {params.choice:q} \
            --list {input.lists:q} \
            {params.store:q} \
            --threads {threads} \
            --out {output:q} \
            >{log:q} 2>&1
        """


rule make_tables:
    input:
        plan.metric_files(),
        bases=plan.base_files(),
        settings=plan.slice_path("tables"),
    output:
        f"{ROOT}/tables/main.csv",
        f"{ROOT}/tables/main.tex",
        [f"{ROOT}/tables/{name}.csv" for name in ("scorings", "per_class", "base", "groups")],
        plan.table_files(".csv", ".tex"),
        main=report(f"{ROOT}/tables/main.html", caption="../report/main.rst", category="Tables", labels={"table": "main"}),
        more=[
            report(path, caption="../report/tables.rst", category="Tables", labels={"table": Path(path).stem})
            for path in plan.table_files(".html")
        ],
    log:
        f"{LOGS}/make_tables.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("tables"),
        published=plan.published_mark(),
        out=subpath(output[0], parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet tables \
            --config {input.settings:q} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """


rule make_luck:
    input:
        plan.metric_files(),
        plan.episode_files(),
        settings=plan.slice_path("tables"),
    output:
        plan.luck_files(".csv", ".tex"),
        [
            report(path, caption="../report/luck.rst", category="Tables", labels={"table": Path(path).stem})
            for path in plan.luck_files(".html")
        ],
    log:
        f"{LOGS}/make_luck.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("luck"),
        out=subpath(output[0], parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet luck \
            --config {input.settings:q} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """


rule make_costs:
    input:
        rules.make_tables.output,
        plan.metric_files(),
        settings=plan.slice_path("tables"),
    output:
        plan.cost_files(".csv", ".tex"),
        [
            report(path, caption="../report/costs.rst", category="Tables", labels={"table": Path(path).stem})
            for path in plan.cost_files(".html")
        ],
    log:
        f"{LOGS}/make_costs.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("costs"),
        out=subpath(output[0], parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet costs \
            --config {input.settings:q} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """


rule make_figures:
    input:
        rules.make_tables.output,
        rules.make_luck.output,
        rules.make_costs.output,
        plan.figures.galleries(),
        plan.episode_files(),
        settings=plan.slice_path("tables"),
    output:
        plan.figures.files(".pdf"),
        [
            report(plan.figures.file(one, ".png"), caption=f"../report/{one.caption}.rst", category="Figures", labels=one.labels)
            for one in plan.figures.all()
        ],
    log:
        f"{LOGS}/make_figures.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("figures"),
        shown=plan.figures.words(),
        out=subpath(output[0], parent=True),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet figures \
            --config {input.settings:q} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """


rule sync_tracking:
    input:
        plan.metric_files(),
        rules.make_tables.output,
        rules.make_luck.output,
        rules.make_costs.output,
    output:
        f"{ROOT}/tracking.json",
    log:
        f"{LOGS}/sync_tracking.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        code=plan.code("track"),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet track sync \
            --out {output:q} \
            >{log:q} 2>&1
        """
