FROM a
COPY ["a b", "c", "/d e/"]
ADD ["https://x/y", "/z"]
VOLUME ["/a b"]
