#> build-arg=REF=v1
FROM busybox
ARG REF
ADD https://github.com/a/b.git /x
ADD https://github.com/a/b.git#$REF:docs /x
ADD git@github.com:a/b.git#:sub/../dir /x
ADD ssh://git@host:22/a/b /x
ADD git://host/a /x
ADD https://github.com/a/b.git?ref=main&subdir=/docs/&keep-git-dir=true&submodules=false&mtime=commit /x
ADD https://github.com/a/b.git?tag=v2&commit=0123abc /x
ADD https://github.com/a/b.git?branch=main&checksum=0123456789012345678901234567890123456789&fetch-by-commit /x
ADD --keep-git-dir --checksum=abcdef https://github.com/a/b.git /x
ADD --keep-git-dir=false https://github.com/a/b.git?keep-git-dir=0 /x
ADD --exclude=*.md --chown=1:2 --chmod=a+rX https://github.com/a/b.git /x
ADD --link https://github.com/a/b.git /x
