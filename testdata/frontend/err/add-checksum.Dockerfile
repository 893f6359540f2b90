FROM busybox
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d a /x
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://x/a https://x/b /x/
ADD --checksum=md5:1 https://x/a /x
ADD --checksum=sha256:12 https://x/a /x
ADD --checksum=${A:?nothing} https://x/a /x
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d <<A /x
A
