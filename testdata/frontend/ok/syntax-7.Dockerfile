# syntax=dockerfile.v0
FROM scratch
