#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=1
FROM scratch AS src
ADD https://x/y /
ADD https://x/z /
FROM busybox
