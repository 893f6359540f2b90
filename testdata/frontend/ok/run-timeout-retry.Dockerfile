#> timeout=60
#> retries=1
FROM busybox
RUN one
RUN --timeout=1m30s --retry=3 two
RUN --timeout=0 --retry=0 three
