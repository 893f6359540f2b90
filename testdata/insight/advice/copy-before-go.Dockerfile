#> go.mod 1000
#> go.sum 1000
#> main.go 1000
FROM golang
WORKDIR /src
COPY . .
RUN go mod download
RUN go build ./...
