# syntax=docker/dockerfile:1.20
FROM scratch
