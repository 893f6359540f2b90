mkdir s
ln -s x s/l
