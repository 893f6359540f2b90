FROM busybox
#> build-arg=SOURCE_DATE_EPOCH=context
