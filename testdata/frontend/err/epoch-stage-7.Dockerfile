#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=1
FROM scratch AS src
ADD https://x/y.git?what=1 /
FROM busybox
