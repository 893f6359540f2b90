#> runs 9 10 14 18 19
#> always 13
FROM golang AS base
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg go mod download

FROM base AS build
COPY . .
RUN --mount=type=cache,target=/root/.cache --mount=type=secret,id=key go build -o /out/ ./...

FROM node AS site
RUN --mount=source=web,target=/web,readonly npm --prefix /web ci && npm --prefix /web run build -- --out=/site
RUN --mount=from=build,source=/out,target=/out /out/server --check /site

FROM debian AS final
RUN apt-get update && apt-get install -y ca-certificates
COPY --link --from=build /out/server /usr/local/bin/
COPY --from=site /site /usr/share/site
