"""Labels of other tools made into a dataset: COCO, Pascal VOC, labelme, CVAT and YOLO.

The readers are edgeseg's own. Datumaro, the one kept library that reads most of these, wants OpenCV 4 and Pillow 12
where edgeseg has 5 and 13, and reads no labelme JSON; of pycocotools only the run lengths would be used.
"""
