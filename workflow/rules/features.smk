# REQUIRED INPUTS: a fold's image lists, ImageNet weights
# OUTPUTS: {dataset}/{backbone}/fold{fold}/base.safetensors, base.json, features_{split}.json (a manifest; its shards lie beside it)


rule train_base:
    input:
        settings=lambda w: plan.slice_path("base", w.dataset, w.fold),
        lists=lambda w: plan.base_list(w.dataset, w.fold),
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
        weights=lambda w: plan.weights_mark(w.dataset),
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
