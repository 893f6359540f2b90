#> src/go.mod 1000
#> src/go.sum 1000
#> src/main.go 1000
#> templates/a 1000
#> netrc 1000
FROM golang
WORKDIR /src
COPY ./src .
LABEL x=y
COPY templates /templates
COPY netrc /root/.netrc
COPY --from=tools /bin/protoc /bin/
VOLUME /cache
RUN go mod download
RUN go build ./...
