#> build-arg=SOURCE_DATE_EPOCH=src
#> epoch=7
FROM scratch AS src
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://x/y.tar.gz /
FROM busybox
