#> context=src=directory
#> epoch=5
ARG SOURCE_DATE_EPOCH=src
FROM busybox
ARG SOURCE_DATE_EPOCH
RUN date
