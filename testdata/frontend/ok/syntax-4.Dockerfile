# syntax=docker.io/docker/dockerfile:1.4-labs
FROM scratch
