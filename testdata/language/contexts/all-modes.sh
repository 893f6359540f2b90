mkdir m; cd m; for x in 0000 0001 0400 1777 2755 4755 6755 7777 0444; do echo $x>f$x; mkdir d$x; chmod $x f$x d$x; done; ln -s f0400 l
