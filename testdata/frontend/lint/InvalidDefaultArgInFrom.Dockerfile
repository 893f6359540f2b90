ARG TAG
FROM debian:${TAG}
#> build-arg=TAG=13
