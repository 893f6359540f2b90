#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=1
FROM scratch AS src
ARG A
FROM busybox
