FROM busybox
ENV DIR=sub
COPY . /
COPY ../../up /up
COPY /abs/path/ ./$DIR/../dir/
COPY *.c a[0-9].h a\*b x/./y/. /wild/
COPY ["with space", "json dir/"]
COPY --chown=app:1000 --chmod=0755 f /f
COPY --chown=1000 f /f
ENV M=644
COPY --chmod=$M f /f
COPY --chown=$NOPE f /f
ADD archive.tar.gz other /unpacked/
ADD --unpack=false archive.tar.gz /kept
