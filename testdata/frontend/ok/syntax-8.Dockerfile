# syntax=docker/dockerfile:1 with more words
FROM scratch
