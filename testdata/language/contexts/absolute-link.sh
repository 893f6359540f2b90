mkdir d
echo d>d/f
ln -s /d/f l
