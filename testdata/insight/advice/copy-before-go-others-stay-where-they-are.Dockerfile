#> src/go.mod 1000
#> src/go.sum 1000
#> src/main.go 1000
#> templates/a 1000
FROM golang
COPY src /src
COPY templates templates
WORKDIR /src
RUN go mod download
