#> build-arg=SOURCE_DATE_EPOCH=context
#> epoch=1700000000
FROM busybox
ARG SOURCE_DATE_EPOCH
RUN date
