#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=1
FROM scratch AS src
RUN x
ADD https://x/y /
FROM busybox
