> x.tar.gz
