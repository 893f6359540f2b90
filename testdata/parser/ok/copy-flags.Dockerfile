FROM a
COPY --from=b --chown=u:g --chmod=u=rwX,go=rX --link --parents=true --exclude=*.a --exclude=*.b one two /three/
COPY ["a b", "c\"d", "/e"]
ADD --chown=$U --chmod=755 --link=true --keep-git-dir --checksum=sha256:0 --unpack=false --exclude=x https://example.com/x.git#main:sub /y
ADD "a b" /c
