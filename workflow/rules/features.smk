# REQUIRED INPUTS: a fold's image lists and episodes, ImageNet weights
# OUTPUTS: {dataset}/{backbone}/fold{fold}/base.safetensors, base.json, and manifests, whose shards lie beside them:
#   features_{split}.json, records/{part}/shot{shot}/seed{seed}.json


rule train_base:
    input:
        settings=lambda w: plan.slice_path("base", w.dataset, w.fold),
        lists=lambda w: plan.base_list(w.dataset, w.fold),
        fetched=lambda w: plan.supplies.fetched(w.dataset, "weights"),
    output:
        weights=f"{FOLD}/base.safetensors",
        measured=f"{FOLD}/base.json",
    log:
        f"{LOGS}/{{dataset}}/{{backbone}}/fold{{fold}}/train_base.log",
    conda:
        "../../environment.yml"
    threads: plan.experiment.threads
    params:
        code=lambda w: plan.code("base", w.dataset),
        weights=lambda w: plan.supplies.weights_mark(w.dataset),
        store=lambda w, input: plan.store_option(w.dataset, input),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet base \
            --config {input.settings:q} \
            --list {input.lists:q} \
            --fold {wildcards.fold} \
            {params.store:q} \
            --threads {threads} \
            --out {output.weights:q} \
            >{log:q} 2>&1
        """


rule cache_features:
    input:
        settings=lambda w: plan.slice_path(f"features_{w.split}", w.dataset, w.fold),
        lists=f"{LISTS}/{{split}}.csv",
        base=f"{FOLD}/base.safetensors",
    output:
        f"{FOLD}/features_{{split}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{backbone}}/fold{{fold}}/cache_features-{{split}}.log",
    wildcard_constraints:
        split="train|test",
    conda:
        "../../environment.yml"
    threads: plan.experiment.threads
    params:
        code=lambda w: plan.code(f"features_{w.split}", w.dataset),
        store=lambda w, input: plan.store_option(w.dataset, input),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet features \
            --config {input.settings:q} \
            --split {wildcards.split} \
            --list {input.lists:q} \
            --base {input.base:q} \
            {params.store:q} \
            --threads {threads} \
            --out {output:q} \
            >{log:q} 2>&1
        """


# a job a part: a row that needs another one makes none of the others' again
rule make_records:
    input:
        settings=lambda w: plan.slice_path("records", w.dataset, w.fold),
        episodes=[f"{LISTS}/shot{{shot}}/seed{seed}.csv" for seed in plan.seeds],
        base=f"{FOLD}/base.safetensors",
        features=f"{FOLD}/features_test.json",
    output:
        [f"{FOLD}/records/{{part}}/shot{{shot}}/seed{seed}.json" for seed in plan.seeds],
    log:
        f"{LOGS}/{{dataset}}/{{backbone}}/fold{{fold}}/make_records-{{part}}-shot{{shot}}.log",
    wildcard_constraints:
        part="spm|hpm|pfenet|twice|cosine|tdc",
    conda:
        "../../environment.yml"
    threads: plan.experiment.threads
    params:
        code=lambda w: plan.code("records", w.dataset),
        seeds=",".join(map(str, plan.seeds)),
        episodes=lambda w, input: input.episodes[0].rpartition("/")[0],
        out=subpath(output[0], ancestor=3),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet records \
            --config {input.settings:q} \
            --part {wildcards.part} \
            --shot {wildcards.shot} \
            --episodes {params.episodes:q} \
            --seeds {params.seeds} \
            --fold {wildcards.fold} \
            --base {input.base:q} \
            --features {input.features:q} \
            --threads {threads} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """
