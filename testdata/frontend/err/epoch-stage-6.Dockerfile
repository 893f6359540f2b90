#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=1
FROM scratch AS src
ADD https://x/y https://x/z /
FROM busybox
