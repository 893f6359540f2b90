# syntax=docker/dockerfile:1
ARG BASE=debian:13
FROM ${BASE} AS build
WORKDIR /src
COPY src/ .
RUN ["make", "all"]

FROM nowhere AS unused
COPY --from=build2 / /

FROM scratch
COPY --from=build /src/out /app
ENTRYPOINT ["/app"]
