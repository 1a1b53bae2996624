# REQUIRED INPUTS: the metric files of every cell
# OUTPUTS: tables/main.csv, tables/main.tex and their like; figures/; tracking.json, and the runs in the MLflow store


rule make_tables:
    input:
        plan.metric_files(),
        bases=plan.base_files(),
        settings=plan.slice_path("tables"),
    output:
        main=f"{ROOT}/tables/main.csv",
        latex=f"{ROOT}/tables/main.tex",
        scorings=f"{ROOT}/tables/scorings.csv",
        per_class=f"{ROOT}/tables/per_class.csv",
        base=f"{ROOT}/tables/base.csv",
        groups=f"{ROOT}/tables/groups.csv",
        more=sum(plan.table_files().values(), []),
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


rule make_figures:
    input:
        rules.make_tables.output,
        settings=plan.slice_path("tables"),
    output:
        plan.figure_files(),
    log:
        f"{LOGS}/make_figures.log",
    conda:
        "../../environment.yml"
    params:
        code=plan.code("figures"),
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
