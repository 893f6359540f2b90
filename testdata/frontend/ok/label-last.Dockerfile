#> label=a=option
#> label=b=new
FROM busybox AS base
LABEL a=base c=kept
FROM base
LABEL a=file
