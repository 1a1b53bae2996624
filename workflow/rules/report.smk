# REQUIRED INPUTS: the metric files of every cell
# OUTPUTS: tables/main.csv, tables/main.tex and their like; figures/; tracking.json, and the runs in the MLflow store


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


rule make_figures:
    input:
        rules.make_tables.output,
        settings=plan.slice_path("tables"),
    output:
        plan.figure_files(".pdf"),
        [
            report(path, caption="../report/figures.rst", category="Figures", labels={"figure": Path(path).stem})
            for path in plan.figure_files(".png")
        ],
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
