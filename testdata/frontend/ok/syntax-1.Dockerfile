# syntax=docker/dockerfile
FROM scratch
