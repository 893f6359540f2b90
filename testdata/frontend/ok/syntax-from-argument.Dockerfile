#> build-arg=BUILDKIT_SYNTAX=docker/dockerfile:1.9
# syntax=example.com/other
FROM scratch
