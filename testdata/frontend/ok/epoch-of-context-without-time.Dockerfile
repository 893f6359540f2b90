#> build-arg=SOURCE_DATE_EPOCH=context
#> epoch=none
FROM busybox
ARG SOURCE_DATE_EPOCH
RUN date
