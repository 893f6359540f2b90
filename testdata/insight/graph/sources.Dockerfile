#> unknown 3 5
FROM debian
ADD https://example.org/data.tar.gz /data/
COPY --from=assets logo.svg /srv/
ADD https://github.com/example/tools.git#v1 /tools
COPY <<greeting.txt <<farewell.txt /etc/
hello
greeting.txt
bye
farewell.txt
