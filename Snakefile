# The door. `snakemake all` runs config/config.yaml, `snakemake --configfile FILE all` another experiment; the work is in workflow/.
include: "workflow/Snakefile"


workflow.default_target = "all"
