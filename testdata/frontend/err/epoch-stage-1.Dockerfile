#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=1
FROM busybox AS src
ADD https://x/y /
FROM busybox
