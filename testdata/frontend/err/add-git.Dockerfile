FROM busybox
ADD https://x/y.git?ref=a#b /x
ADD https://x/y.git?what=1 /x
ADD https://x/y.git?tag=a&branch=b /x
ADD https://x/y.git?ref= /x
ADD git@x:y?ref=a&ref=b /x
ADD https://x/y.git?fetch-by-commit=true#main /x
ADD --keep-git-dir=false https://x/y.git?keep-git-dir /x
ADD --checksum=abc https://x/y.git?checksum=abd /x
ADD --checksum=xyz https://x/y.git /x
ADD https://x/y.git#--upload-pack=x /x
