#> platform linux/amd64
#> platform linux/arm64
#> unknown 7
FROM --platform=$BUILDPLATFORM golang AS build
ARG TARGETARCH
COPY . /src
RUN GOARCH=$TARGETARCH go build -C /src -o /out
FROM scratch
COPY --from=build /out /server
