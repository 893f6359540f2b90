mkdir d t; echo 1>t/f; tar -C t --mtime=@0 --owner=0 --group=0 -cf d/a.tar f; rm -r t
