# REQUIRED INPUTS: none; what config/datasets.tsv names and is not under the data root
# OUTPUTS: {data root}/.symnet/{name}.json, the marker of what was fetched or made and lies in its place


rule fetch_data:
    input:
        lambda w: plan.supplies.before(w.name),
    output:
        f"{MARKERS}/{{name}}.json",
    log:
        f"{LOGS}/fetch/{{name}}.log",
    wildcard_constraints:
        name=alternatives(name for name in plan.supplies.names if not plan.supplies.provision.is_made(name)),
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        """
        "$SYMNET_PYTHON" -m symnet download {wildcards.name:q} \
            >{log:q} 2>&1
        """


rule make_masks:
    input:
        lambda w: plan.supplies.before(w.name),
        settings=lambda w: plan.slice_path("masks", plan.supplies.wanted[w.name]),
    output:
        f"{MARKERS}/{{name}}.json",
    log:
        f"{LOGS}/fetch/{{name}}.log",
    wildcard_constraints:
        name=alternatives(name for name in plan.supplies.names if plan.supplies.provision.is_made(name)),
    conda:
        "../../environment.yml"
    threads: 8
    params:
        code=plan.code("masks"),
    shell:
        """
        "$SYMNET_PYTHON" -m symnet masks \
            --config {input.settings:q} \
            --workers {threads} \
            --out {output:q} \
            >{log:q} 2>&1
        """
