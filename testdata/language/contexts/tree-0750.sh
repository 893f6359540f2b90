mkdir -p src/sub/deep src/.hid src/empty
echo a>src/a.txt
echo b>src/b.txt
echo c>src/sub/c.txt
echo h>src/.h
echo hh>src/.hid/x
echo d>src/sub/deep/d
chmod 711 src/sub
chmod 600 src/b.txt
ln -s a.txt src/link
ln -s sub src/dlink
ln -s /etc/passwd src/abs
ln -s nowhere src/dangling
chmod 750 src
