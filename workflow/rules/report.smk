# REQUIRED INPUTS: the metric files of every cell
# OUTPUTS: tables/main.csv, tables/main.tex and their like; tracking.json, and the runs in the MLflow store


rule make_tables:
    input:
        plan.metric_files(),
        settings=plan.slice_path("tables"),
    output:
        main=f"{ROOT}/tables/main.csv",
        latex=f"{ROOT}/tables/main.tex",
        scorings=f"{ROOT}/tables/scorings.csv",
        per_class=f"{ROOT}/tables/per_class.csv",
    log:
        f"{LOGS}/make_tables.log",
    params:
        code=plan.code("tables"),
        out=f"{ROOT}/tables",
    shell:
        """
        "$SYMNET_PYTHON" -m symnet tables \
            --config {input.settings:q} \
            --results {ROOT:q} \
            --out {params.out:q} \
            > {log:q} 2>&1
        """


rule sync_tracking:
    input:
        plan.metric_files(),
        rules.make_tables.output,
    output:
        f"{ROOT}/tracking.json",
    log:
        f"{LOGS}/sync_tracking.log",
    params:
        code=plan.code("track"),
    localrule: True
    shell:
        """
        "$SYMNET_PYTHON" -m symnet track sync \
            --results {ROOT:q} \
            --out {output:q} \
            > {log:q} 2>&1
        """
