mkdir d
echo>d/x
ln -s d l
