# REQUIRED INPUTS: a fold's lists, episodes, base learner, features, records and class vectors
# OUTPUTS: {dataset}/{backbone}/fold{fold}/{method}/shot{shot}/model.safetensors and seed{seed}.json (counts),
#   seed{seed}-episodes.csv (counts of each episode)


rule train_method:
    input:
        settings=lambda w: plan.slice_path("train", w.dataset, w.fold, w.method),
        lists=f"{LISTS}/train.csv",
        base=f"{FOLD}/base.safetensors",
        embeddings=f"{ROOT}/{{dataset}}/embeddings.csv",
        features=lambda w: plan.cache_file("train", w.dataset, w.fold),
        tests=lambda w: list(plan.test_files(w.dataset, w.fold, w.method).values()),
    output:
        f"{CELL}/model.safetensors",
    log:
        f"{LOGS}/{{dataset}}/{{backbone}}/fold{{fold}}/{{method}}/train-shot{{shot}}.log",
    conda:
        "../../environment.yml"
    threads: plan.experiment.threads
    params:
        code=lambda w: plan.code("train", w.dataset, w.method),
        method=lambda w: plan.method_of(w.method),
        features=lambda w, input: ["--features", *input.features] if input.features else [],
        tests=lambda w: sum(plan.test_files(w.dataset, w.fold, w.method).items(), ()),
        store=lambda w, input: plan.store_option(w.dataset, input),
        deadline=lambda w, resources: plan.deadline_option(resources),
        processes=lambda w, resources: plan.processes_option(resources),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet train \
            --config {input.settings:q} \
            --dataset {wildcards.dataset:q} \
            --backbone {wildcards.backbone:q} \
            --fold {wildcards.fold} \
            --row {wildcards.method:q} \
            --method {params.method:q} \
            --shot {wildcards.shot} \
            --list {input.lists:q} \
            --base {input.base:q} \
            --embeddings {input.embeddings:q} \
            {params.features:q} \
            {params.tests:q} \
            {params.store:q} \
            {params.deadline:q} \
            {params.processes:q} \
            --threads {threads} \
            --out {output:q} \
            >{log:q} 2>&1
        """


rule evaluate_method:
    input:
        settings=lambda w: plan.slice_path("evaluate", w.dataset, w.fold, w.method),
        lists=f"{LISTS}/test.csv",
        episodes=[f"{LISTS}/shot{{shot}}/seed{seed}.csv" for seed in plan.seeds],
        base=f"{FOLD}/base.safetensors",
        embeddings=f"{ROOT}/{{dataset}}/embeddings.csv",
        features=lambda w: plan.cache_file("test", w.dataset, w.fold, w.method),
        records=lambda w: plan.record_files(w.dataset, w.fold, w.method, w.shot),
        model=lambda w: plan.model_file(w.dataset, w.fold, w.method, w.shot),
    output:
        [f"{CELL}/seed{seed}.json" for seed in plan.seeds],
        [f"{CELL}/seed{seed}-episodes.csv" for seed in plan.seeds],
    log:
        f"{LOGS}/{{dataset}}/{{backbone}}/fold{{fold}}/{{method}}/evaluate-shot{{shot}}.log",
    conda:
        "../../environment.yml"
    threads: plan.experiment.threads
    params:
        code=lambda w: plan.code("evaluate", w.dataset, w.method),
        method=lambda w: plan.method_of(w.method),
        features=lambda w, input: ["--features", *input.features] if input.features else [],
        records=lambda w, input: ["--records", plan.records_folder(input.base)] if input.records else [],
        model=lambda w, input: ["--model", *input.model] if input.model else [],
        seeds=",".join(map(str, plan.seeds)),
        experiment=plan.experiment.experiment,
        episodes=lambda w, input: input.episodes[0].rpartition("/")[0],
        out=subpath(output[0], parent=True),
        store=lambda w, input: plan.store_option(w.dataset, input),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet evaluate \
            --config {input.settings:q} \
            --experiment {params.experiment:q} \
            --dataset {wildcards.dataset:q} \
            --backbone {wildcards.backbone:q} \
            --fold {wildcards.fold} \
            --row {wildcards.method:q} \
            --method {params.method:q} \
            --shot {wildcards.shot} \
            --list {input.lists:q} \
            --episodes {params.episodes:q} \
            --seeds {params.seeds} \
            --base {input.base:q} \
            --embeddings {input.embeddings:q} \
            {params.features:q} \
            {params.records:q} \
            {params.model:q} \
            {params.store:q} \
            --threads {threads} \
            --out {params.out:q} \
            >{log:q} 2>&1
        """
