#> build-arg=SOURCE_DATE_EPOCH=context
FROM busybox
