#> build-arg=V=1.2
FROM busybox
ARG V
ADD https://example.com/x-$V.tar.gz /dest/
ADD https://example.com/ http://example.com/a%20b?q=/z /dest/
ADD --unpack https://example.com/x.tar.gz /dest/
ADD --chmod=755 --chown=1:2 https://user:secret@example.com/tool /usr/bin/tool
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/x /x
ADD --link https://example.com/y /y
ADD --exclude=*.md https://example.com/z.md /z
