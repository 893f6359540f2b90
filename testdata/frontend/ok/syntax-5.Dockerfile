# syntax=docker/dockerfile-upstream:master
FROM scratch
