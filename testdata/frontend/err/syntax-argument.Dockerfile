# syntax=docker/dockerfile:1
FROM busybox
#> build-arg=BUILDKIT_SYNTAX=example.com/other
