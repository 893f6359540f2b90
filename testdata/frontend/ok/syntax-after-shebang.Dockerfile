#!/usr/bin/env builder
# syntax=docker/dockerfile:1
FROM scratch
